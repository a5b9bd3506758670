"""(βDᵀWD + A)⁻¹ of a problem at one θ: by the columns of D where these are few, and else by DDᵀ without D."""
